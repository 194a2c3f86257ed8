"""Files of config/ that runtimes read for towers, such as learned positions that they interpolate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmconv.blocks.tower import Fitted
from llmconv.errors import ConvertError
from llmconv.request.output import Layout

if TYPE_CHECKING:
    import numpy as np

    from llmconv.plan.plan import Plan


def read(plan: Plan, fitted: Fitted) -> dict[str, np.ndarray]:
    """What the tower's files hold, by their names. Raises ConvertError for one that is missing or not as promised."""
    import numpy as np

    found = {}
    for one in fitted.tower.beside(fitted.spec):
        path = Layout(plan.job.out_dir).config / one.name
        try:
            found[one.name] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ConvertError(f"{path} cannot be read", str(error), "Run the conversion again.") from None
        form = found[one.name].shape, found[one.name].dtype.name
        if form != (one.shape, "float32"):
            what = f"{path} is an array {list(form[0])} of {form[1]}"
            raise ConvertError(what, f"the tower's has {list(one.shape)} of float32", "Run the conversion again.")
    return found
