"""The GPUs that every kernel is compiled for: those of two makers, for servers and for desks."""

from typing import NamedTuple


class Target(NamedTuple):
    """backend, architecture and threads in a warp are Triton's; shared: bytes for one block."""

    backend: str
    architecture: int | str
    warp: int
    shared: int


TARGETS = {
    "sm_80": Target("cuda", 80, 32, 163 * 1024),
    "sm_90": Target("cuda", 90, 32, 227 * 1024),
    "gfx942": Target("hip", "gfx942", 64, 64 * 1024),
    "gfx1100": Target("hip", "gfx1100", 32, 64 * 1024),
}
