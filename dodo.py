"""doit's entry: `doit convert model=DIR seq=512`. Reads the variables of the command line and hands over to tasks/."""

from llmconv.convert import Doit

doit = Doit()
DOIT_CONFIG = doit.config


def task_llmconv():
    """the whole graph of a conversion"""
    yield from doit.tasks()
