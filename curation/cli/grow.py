"""Commands that print manifests to run an instance on more machines."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from curation.cli.output import settings

app = typer.Typer(no_args_is_help=True)

Images = Annotated[
    str,
    typer.Option(help="Prefix of the images' names, such as registry.example.org/layerloop-."),
]
Tag = Annotated[str, typer.Option(help="Tag of the images.")]


@app.command()
def kubernetes(
    images: Images = "layerloop-",
    tag: Tag = "latest",
    namespace: Annotated[str, typer.Option(help="The namespace.")] = "layerloop",
    admin: Annotated[str, typer.Option(help="Name of the first administrator.")] = "admin",
    max_gpu_workers: Annotated[int, typer.Option(help="Largest number of gpu workers.", min=1)] = 8,
    max_cpu_workers: Annotated[int, typer.Option(help="Largest number of cpu workers.", min=1)] = 8,
) -> None:
    """Print manifests of the API and of workers that KEDA scales with the waiting work.

    The addresses are those of the settings; passwords are read from a Secret.
    """
    from curation.instance.manifests import render_kubernetes

    sys.stdout.write(
        render_kubernetes(
            settings(),
            namespace=namespace,
            images=images,
            tag=tag,
            admin=admin,
            max_gpu_workers=max_gpu_workers,
            max_cpu_workers=max_cpu_workers,
        )
    )


@app.command()
def skypilot(
    images: Images = "layerloop-",
    tag: Tag = "latest",
    accelerators: Annotated[
        str, typer.Option(help="Kind and number of accelerators of a machine.")
    ] = "L4:1",
    spot: Annotated[bool, typer.Option(help="Use spot machines.")] = True,
    machines: Annotated[
        int, typer.Option(help="Number of machines that train one run together.", min=1)
    ] = 1,
) -> None:
    """Print a task for SkyPilot: a gpu worker, or a training on several machines."""
    from curation.instance.manifests import render_skypilot

    task = render_skypilot(
        settings(), images=images, tag=tag, accelerators=accelerators, spot=spot, machines=machines
    )
    sys.stdout.write(task)
