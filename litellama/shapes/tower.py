"""The vision tower of shapes-llava: its shape, and what its pictures are normalised with."""

from litellama.config import VisionConfig
from litellama.shapes import scenes

IMAGE_TOKEN_ID = 16  # SmolLM2's <empty_output>, which its chats never use, becomes <image>
# What pictures are normalised with: to be written to preprocessor_config.json.
MEAN, STD = 0.5, 0.5

VISION = VisionConfig(
    hidden_size=256,
    intermediate_size=1024,
    num_layers=6,
    num_heads=8,
    image_size=scenes.SIZE,
    patch_size=16,
    layer_norm_eps=1e-5,
    activation="gelu",
    keeps_class_token=False,
    projector_bias=True,
    image_token_id=IMAGE_TOKEN_ID,
)
