"""Which packages a wheel has: those that are found in llmconv/, and tasks/, which stands at the top level, as
llmconv.tasks."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["llmconv", "llmconv.*"]), "llmconv.tasks"])
