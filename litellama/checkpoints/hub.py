"""Fetch a model's safetensors from the Hugging Face hub: never pickles, never code."""

import json
from pathlib import Path
from shutil import rmtree

from litellama.checkpoints.cache import require_space
from litellama.checkpoints.conversion import SIDE_FILES
from litellama.checkpoints.safetensors_files import INDEX, PICKLES, open_checkpoint
from litellama.errors import CheckpointError

WANTED = ("*.safetensors", INDEX, *SIDE_FILES)
# Subfolders hold other formats; consolidated files are a second copy of the weights.
UNWANTED = ("*/*", "consolidated*")
TIMEOUT = 10.0  # seconds to wait for the hub's first answer


def fetch(name: str, folder: Path, endpoint: str | None = None, timeout: float = TIMEOUT) -> None:
    """Fill ``folder`` with the hub's model ``name`` (OWNER/NAME) and check what came.

    ``endpoint`` is another hub than huggingface.co (as the variable HF_ENDPOINT is).

    Raises CheckpointError when the hub cannot be reached, has no such model or wants a licence to
    be accepted, and when the model has no safetensors or could only run with its own code.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import filter_repo_objects

    try:
        info = HfApi(endpoint=endpoint).model_info(name, files_metadata=True, timeout=timeout)
        files = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
        _check_listing(name, list(files))
        wanted = filter_repo_objects(
            files, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
        require_space(folder, sum(files[file] for file in wanted))
        snapshot_download(
            name,
            revision=info.sha,
            local_dir=folder,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
            etag_timeout=timeout,
            endpoint=endpoint,
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then run "
            "`hf auth login` and pull again"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the Hugging Face hub has no model {name}, or it is private: check the name, or run "
            "`hf auth login`"
        ) from error
    except OfflineModeIsEnabled as error:
        raise CheckpointError(
            f"{name} was not fetched: HF_HUB_OFFLINE is set. Unset it to use the network"
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(f"the Hugging Face hub refused {name}: {error}") from error
    except Exception as error:
        if isinstance(error, LocalEntryNotFoundError) or is_network_error(error):
            raise CheckpointError(
                f"no network, or the Hugging Face hub cannot be reached, so {name} was not fetched "
                f"({type(error).__name__}: {error}). A model that is on this machine can be given "
                "as a folder"
            ) from error
        raise
    rmtree(folder / ".cache", ignore_errors=True)  # huggingface_hub's notes about the download
    open_checkpoint(folder)
    refuse_remote_code(folder)


def is_network_error(error: BaseException) -> bool:
    """Whether a request failed on its way: huggingface_hub's HTTP library has changed over time."""
    library = type(error).__module__.partition(".")[0]
    http = library in ("httpx", "httpx2", "requests", "urllib3")
    return http or isinstance(error, ConnectionError | TimeoutError)


def _check_listing(name: str, files: list[str]) -> None:
    """Refuse before the download a model that could not be used after it."""
    if "config.json" not in files:
        raise CheckpointError(f"{name} on the hub has no config.json: not a transformers model")
    if "model.safetensors" in files or INDEX in files:
        return
    if any(file.endswith(PICKLES) for file in files):
        raise CheckpointError(
            f"{name} on the hub has pickled weights only: a pickle can run any code when it is "
            "read, so only safetensors are fetched. Look for another upload of this model"
        )
    raise CheckpointError(f"{name} on the hub has no model.safetensors")


def refuse_remote_code(folder: Path) -> None:
    """Raise CheckpointError if the model is known only by code of its own (``auto_map``)."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    config = json.loads((folder / "config.json").read_text("utf-8"))
    kind = config.get("model_type")
    if config.get("auto_map") and kind not in CONFIG_MAPPING_NAMES:
        raise CheckpointError(
            f"{folder / 'config.json'} (model_type {kind!r}) asks to run Python code from the hub, "
            "which is never done: this model is not supported"
        )
