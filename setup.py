"""Package discovery; everything else stands in pyproject.toml.

The migrations are installed inside `curation`, since a top-level package called `migrations` would
shadow, or be shadowed by, that of another project. pyproject.toml cannot list packages that are
partly found and partly mapped.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["layerloop*", "curation*", "training*", "annotator_ui*"]),
        "curation._migrations",
        "curation._migrations.versions",
    ],
    package_dir={"curation._migrations": "migrations"},
)
