"""doit's entry: `doit convert model=DIR seq=512`. Reads the variables of the command line and hands over to tasks/."""

from llmconv.doit_entry import Doit

doit = Doit()
DOIT_CONFIG = doit.config


def task_llmconv():
    """the whole graph of a conversion"""
    yield from doit.tasks()
