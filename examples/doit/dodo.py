"""Two programs of one model, beside tasks of one's own: `doit publish` builds what is missing, then copies."""

import shutil
from pathlib import Path

from llmconv.doit import conversion

DOIT_CONFIG = {"default_tasks": ["publish"], "verbosity": 2}

small = conversion("small", model="qwen2-tiny", seq=64, out="built/small", chip="bm1688")
large = conversion("large", model="qwen2-tiny", seq=128, out="built/large", chip="bm1688", max_input_length=64)


def copy(source, place):
    Path(place).mkdir(exist_ok=True)
    shutil.copy(source, place)


def task_publish():
    """copy the programs to where others find them"""
    for each in (small, large):
        yield {
            "name": each.name,
            "actions": [(copy, [each.bmodel, "published"])],
            "file_dep": [each.bmodel],
        }


def task_upload():
    """what comes after both, by the names of their tasks"""
    return {"actions": ["ls published > uploaded.txt"], "task_dep": ["small", "large", "publish"]}
