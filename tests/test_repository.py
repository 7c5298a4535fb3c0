"""The files around the package agree with it and with each other."""

from importlib.metadata import version

import finetune


def test_the_installed_version_is_that_of_the_package():
    assert version("finetune-vision") == finetune.__version__
