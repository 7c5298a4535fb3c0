"""Asks the model hub once whether it can be reached, since a download tries again and again."""

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

_FILES = ("model.safetensors", "pytorch_model.bin")
_TIMEOUT_SECONDS = 10.0


def check_reachable(repository: str) -> None:
    """Raises ConnectionError if the hub does not answer and there is no earlier download.

    A download itself would try for 45 seconds, and print a line for each try.
    repository: of the weights on the hub, such as "timm/resnet18.a1_in1k".
    """
    for name in _FILES:
        is_downloaded = isinstance(try_to_load_from_cache(repository, name), str)
        if is_downloaded:
            return
    try:
        get_hf_file_metadata(hf_hub_url(repository, _FILES[0]), timeout=_TIMEOUT_SECONDS)
    except HfHubHTTPError:
        return  # it answered; whether the file is there is for the download to find out
    except Exception as error:  # types of its HTTP library, which is another one in each version
        reason = str(error).strip().partition("\n")[0]
        raise ConnectionError(f"the model hub can't be reached ({reason})") from error
