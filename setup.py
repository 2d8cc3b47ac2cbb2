"The wheel carries `data/` as `reasonlab._assets`; everything else about the package stands in pyproject.toml"
from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["reasonlab*"]), "reasonlab._assets"], package_dir={"reasonlab._assets": "data"})
