"""Maps the top-level folders to sub-packages of `polyvid`; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

ROOMS = ("modeling", "dataset_scripts", "train", "hub_cards")
PACKAGES = find_packages(include=[*ROOMS, *(f"{room}.*" for room in ROOMS)])
setup(
    packages=["polyvid", *(f"polyvid.{name}" for name in PACKAGES)],
    package_dir={"polyvid": "."},
    script_name="setup.py",  # build frontends name themselves; what is named here is left out of the package
)
