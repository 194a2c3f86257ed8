"""What the hub refuses, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llmconv.errors import ConvertError, InputError
from llmconv.hub.name import Name

AGAIN = "Run the same command again: what has arrived is kept."


class Unreachable(ConvertError):
    """The hub does not answer; what is in the cache may do."""


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
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(
            f"the model {name.repo} is gated",
            "the hub gives it only to those who accepted its conditions",
            f"Accept them at {page}, then set HF_TOKEN to a token of yours (or run `hf auth login`).",
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(f"the model {name.repo} has no revision {name.revision}", "", f"{page}/tree/main lists branches and tags.") from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name.repo} is neither a directory here nor a model on the hub ({constants.ENDPOINT})",
            "or it is private and HF_TOKEN is not a token that may see it",
            "Check the name; a directory can be written as ./DIR.",
        ) from None
    except (errors.OfflineModeIsEnabled, httpx.TransportError) as error:
        why = "HF_HUB_OFFLINE is set" if isinstance(error, errors.OfflineModeIsEnabled) else f"{constants.ENDPOINT}: {error or type(error).__name__}"
        raise Unreachable(f"the hub cannot be reached for {what or name}", why, AGAIN) from None
    except errors.HfHubHTTPError as error:
        raise ConvertError(f"the hub does not give {what or name}", str(error).splitlines()[0], AGAIN) from None
