"""The model hub, asked once whether it can be reached, before anybody tries again and again."""

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

_FILES = ("model.safetensors", "pytorch_model.bin")
_SECONDS = 10.0


def check_reachable(repository: str) -> None:
    """Raises ConnectionError where the hub does not answer and no earlier download is kept.

    A download by itself tries for 45 seconds, and prints a line for each try.
    """
    if any(isinstance(try_to_load_from_cache(repository, name), str) for name in _FILES):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, _FILES[0]), timeout=_SECONDS)
    except HfHubHTTPError:
        return  # it answered; what it says of the file is for the download to find
    except Exception as error:  # its HTTP library's own types, another one in each version
        first = str(error).strip().partition("\n")[0]
        raise ConnectionError(f"the model hub can't be reached ({first})") from error
