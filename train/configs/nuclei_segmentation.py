"""Nuclei under the microscope: 1,807 tiles of 128x128, of background, nuclei and the borders between touching ones."""

from ml_collections import ConfigDict

from train.configs import default_segmentation


def get_config() -> ConfigDict:
    """A small U-Net; half an hour or more on 2 CPU cores."""
    config = default_segmentation.get_config()
    config.dataset = "nuclei"
    config.student.integers = True
    return config
