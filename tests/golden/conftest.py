"""Keeps pytest away from the script that needs fastai."""

collect_ignore = ["refresh.py"]
