"""The model hub: an exported folder becomes a repository of it, and a repository a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_token,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from finetune.export.formats import CARD, DESCRIPTION, FEATURES, WEIGHTS, model_files

PREFIX = "hf-hub:"
"""What a name begins with that means a repository of the hub, as in timm."""

_LOG_IN = (
    "log in with `hf auth login`, set HF_TOKEN or pass token= (from "
    "https://huggingface.co/settings/tokens; an upload needs the right to write)"
)


@dataclass(frozen=True, slots=True)
class _Place:
    """A repository of the hub. revision: a branch, a tag or a commit; None is its newest state."""

    repository: str
    revision: str | None = None

    @classmethod
    def of(cls, name: str) -> "_Place":
        """From hf-hub:user/name or hf-hub:user/name@revision."""
        repository, _, revision = name.removeprefix(PREFIX).partition("@")
        return cls(repository, revision or None)


def is_on_hub(model: str | Path) -> bool:
    """Whether it names a repository of the hub rather than a folder.

    >>> is_on_hub("hf-hub:user/name"), is_on_hub("runs/photos")
    (True, False)
    """
    return str(model).startswith(PREFIX)


def download(name: str, token: str | None = None) -> Path:
    """The folder, in the hub's cache, with the files of a model by which it can be loaded.

    Only the description and safetensors are downloaded, once, and again where they have changed.
    Without a network it is the last download.
    name: hf-hub:user/name, or hf-hub:user/name@revision. token: None is the one of `hf auth login`.
    Raises ValueError for no such name, FileNotFoundError for a repository that is not there or
    holds no model of ours, PermissionError, and ConnectionError where the hub can't be reached.
    """
    place = _Place.of(name)
    wanted = (DESCRIPTION, WEIGHTS, FEATURES)
    with _answered(place.repository, f"load {name!r}"):
        folder = Path(
            snapshot_download(
                place.repository,
                revision=place.revision,
                allow_patterns=list(wanted),
                token=token,
            )
        )
    missing = [file for file in (DESCRIPTION, WEIGHTS) if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{name!r} holds no model of finetune: it has no {' and no '.join(missing)}; "
            "learner.push_to_hub writes such a repository, with 'safetensors' among its formats"
        )
    return folder


def check_can_upload(repository: str, token: str | None = None) -> None:
    """Raises ValueError for no name of a repository, PermissionError where nobody is logged in."""
    owner, slash, name = repository.partition("/")
    if not (owner and slash and name) or repository.startswith(PREFIX):
        raise ValueError(f"repository must be like 'user/name', got {repository!r}")
    if token is None and get_token() is None:
        raise PermissionError(f"nobody is logged in to the model hub: {_LOG_IN}")


def upload(
    folder: Path,
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload a model",
) -> str:
    """Makes an exported folder the content of a repository, in one commit; returns its address.

    Files that an earlier export left there go, those of other people stay.
    repository: such as "user/name"; it is made where it is not there. private: None is what the
    hub does by itself, for people: public. token: None is the one of `hf auth login`.
    Raises FileExistsError for a repository with a model of another kind, ValueError for one that
    is public and should be private or the other way round, and as `download`.
    """
    api = HfApi()
    with _answered(repository, "upload the model"):
        address = str(api.create_repo(repository, private=private, token=token, exist_ok=True))
        is_private = bool(api.model_info(repository, token=token).private)
        names_there = set(api.list_repo_files(repository, token=token))
    if private is not None and is_private != private:
        kind = "private" if is_private else "public"
        raise ValueError(
            f"{address} is {kind} already, and private={private} does not change that: change it "
            "in its settings, leave private= out, or give another name"
        )
    ours_there = names_there & model_files()
    if DESCRIPTION not in names_there and ours_there - {CARD}:
        listed = ", ".join(sorted(ours_there))
        raise FileExistsError(
            f"{address} holds a model of another kind and stays: {listed}; give another name"
        )
    files = sorted(folder.iterdir())
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for file in files:
        operations.append(CommitOperationAdd(file.name, file))
    for name in sorted(ours_there - {file.name for file in files}):
        operations.append(CommitOperationDelete(name))
    # one commit: nobody downloads the weights of one model with the description of another
    with _answered(repository, "upload the model"):
        api.create_commit(repository, operations, commit_message=message, token=token)
    return address


@contextmanager
def _answered(repository: str, to_do: str) -> Iterator[None]:
    """Turns the errors of the hub's client into those of Python, with what to do.

    to_do: what is being tried, as a verb.
    """
    # `from None`: the frames of client and HTTP library would hide the message
    try:
        yield
    except HFValidationError as error:
        raise ValueError(
            f"{repository!r} is no name of a repository, such as 'user/name': {_line(error)}"
        ) from None
    except RevisionNotFoundError:
        raise FileNotFoundError(
            f"can't {to_do}: the repository {repository!r} has no such branch, tag or commit"
        ) from None
    except GatedRepoError:
        raise PermissionError(
            f"can't {to_do}: its owner asks for consent first, on the page of {repository!r}; "
            f"then {_LOG_IN}"
        ) from None
    except RepositoryNotFoundError:
        raise FileNotFoundError(
            f"can't {to_do}: the model hub has no repository {repository!r}, or it is private; "
            f"look at its name, and for a private one {_LOG_IN}"
        ) from None
    except HfHubHTTPError as error:
        response = error.response
        if response is None:  # so older clients say that there is no earlier download, either
            raise _unreachable(to_do, error) from None
        reason = error.server_message or _line(error)
        if response.status_code in (401, 403):
            raise PermissionError(
                f"can't {to_do}: the model hub refuses ({reason}); {_LOG_IN}"
            ) from None
        raise OSError(f"can't {to_do}: the model hub answers: {reason}") from None
    except ValueError as error:  # the hub does not take the card
        raise ValueError(f"can't {to_do}: {error}") from None
    except (TypeError, Warning):
        raise
    except Exception as error:  # types of its HTTP library, which is another one in each version
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, say
            raise
        raise _unreachable(to_do, error) from None


def _unreachable(to_do: str, error: Exception) -> ConnectionError:
    return ConnectionError(f"can't {to_do}: the model hub can't be reached ({_line(error)})")


def _line(error: BaseException) -> str:
    """What happened, in one line; a client wraps the reason in words about its own steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__
