"""Errors of the hub, in one sentence each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from llmconv.errors import ConvertError, InputError
from llmconv.hub.name import Name

AGAIN = "Run the same command again: files that have arrived whole are kept."
FULL = (errno.ENOSPC, errno.EDQUOT)

ONLINE = "Unset it, or name a directory."


class Unreachable(ConvertError):
    """The hub does not answer. The cache may still hold the model."""


class Stopped(ConvertError):
    """Ctrl-C during a download."""

    exit_code = 130


def quiet() -> None:
    """The library shows no bars of its own, and does not tell of every connection that it opens anew."""
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity_error()


@contextmanager
def explained(name: Name, what: str = "") -> Iterator[None]:
    """Turns the library's errors into ours. what: the file that is asked for, if it is one."""
    import httpx2 as httpx
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name.repo}"
    what = what or str(name)
    try:
        with _causes():
            yield
    except errors.GatedRepoError:
        raise InputError(
            f"the model {name.repo} is gated",
            "the hub gives it only to those who accepted its conditions",
            f"Accept them at {page}, then set HF_TOKEN to a token of yours (or run `hf auth login`).",
        ) from None
    except errors.RevisionNotFoundError:
        lists = f"{page}/tree/main lists branches and tags."
        raise InputError(f"the model {name.repo} has no revision {name.revision}", "", lists) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name.repo} is neither a directory here nor a model on the hub ({constants.ENDPOINT})",
            "or it is private and HF_TOKEN is not a token that may see it",
            "Check the name; a directory can be written as ./DIR.",
        ) from None
    except errors.RemoteEntryNotFoundError:
        raise ConvertError(f"the hub has no {what}", "", f"{page}/tree/{name.revision} lists the files.") from None
    except errors.OfflineModeIsEnabled:
        raise Unreachable(f"the hub cannot be reached for {what}", "HF_HUB_OFFLINE is set", ONLINE) from None
    except httpx.TransportError as error:
        why = f"{constants.ENDPOINT}: {error or type(error).__name__}"
        raise Unreachable(f"the hub cannot be reached for {what}", why, AGAIN) from None
    except errors.HfHubHTTPError as error:
        raise ConvertError(f"the hub does not give {what}", _first_line(error), AGAIN) from None
    except OSError as error:
        try_ = "Make room, or set HF_HOME to another place." if error.errno in FULL else AGAIN
        raise ConvertError(f"{what} cannot be downloaded", error.strerror or _first_line(error), try_) from None


@contextmanager
def _causes() -> Iterator[None]:
    """Raises what lies behind the library's error that a file is not in the cache either."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        raise (error.__cause__ or error) from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
