"""Commands that open the house itself: up, demo, doctor, and the two processes it is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curation.cli.show import Json, print_json, progress, talk

if TYPE_CHECKING:
    from curation.settings import Settings

Home = Annotated[Path | None, typer.Option(help="The folder of everything embedded; LAYERLOOP_HOME when not given.")]


def up(home: Home = None, port: Annotated[int | None, typer.Option(help="Where the pages listen.")] = None) -> None:
    """Start the house: database, workers, API and pages; print one address to sign in at, and stay until Ctrl-C."""
    from curation.household import household

    with household(_settings(home, port)) as standing:
        talk.print(
            f"\n  open  [bold]{standing.sign_in_address()}[/]\n\n  the address lets one person in, once; Ctrl-C stops"
        )
        standing.stay()


def demo(
    home: Home = None,
    seed: Annotated[Path | None, typer.Option(help="A folder of images with alpha; without it, drawn shapes.")] = None,
    reviewer: Annotated[str, typer.Option(help="'person' waits at the pages, 'oracle' decides by rules.")] = "person",
    rounds: Annotated[int, typer.Option(help="How many rounds.", min=1)] = 2,
    pairs: Annotated[bool, typer.Option("--pairs", help="Foreground, background and blended image together.")] = False,
    quota: Annotated[int, typer.Option(help="How many candidates each round draws.", min=1)] = 96,
    preset: Annotated[str, typer.Option(help="A row of numbers: tiny for a laptop.")] = "tiny",
    images: Annotated[int, typer.Option(help="Train on so many images instead of the preset's.", min=0)] = 0,
    seeds: Annotated[int, typer.Option(help="How many shapes to draw when no folder is given.", min=20)] = 1_500,
    desk: Annotated[str, typer.Option(help="'label-studio' installs and starts one beside the pages.")] = "pages",
    port: Annotated[int | None, typer.Option(help="Where the pages listen.")] = None,
    as_json: Json = False,
) -> None:
    """Run the whole loop: seeds, training, drawing, review, and again; the same command goes on where it stopped."""
    from curation.domain import Kind
    from curation.household import household
    from curation.intake.seeding import bring_seeds
    from curation.loop import Plan, run_loop
    from curation.review import report

    if reviewer not in {"person", "oracle"}:
        raise typer.BadParameter("'person' or 'oracle'", param_hint="--reviewer")
    if desk not in {"pages", "label-studio"}:
        raise typer.BadParameter("'pages' or 'label-studio'", param_hint="--desk")
    kind, recipe = (Kind.pair, "pairs") if pairs else (Kind.single, "whole")
    plan = Plan(rounds=rounds, quota=quota, preset=preset, reviewer=reviewer, recipe=recipe, images=images, kind=kind)
    settings = _settings(home, port)
    with _desk(settings) if desk == "label-studio" else nullcontext(settings) as ready, household(ready) as standing:
        talk.print(f"\n  pages  [bold]{standing.sign_in_address()}[/]  (lets one person in, once)\n")
        if preset == "tiny":
            talk.print("  The tiny preset learns drawn shapes in minutes; on real photographs it draws coloured shapes")
            talk.print("  with clean alpha and no more. Presets sd15 and sdxl are for real work.\n")
        if reviewer == "person":
            talk.print("  Candidates wait for you at the review page as soon as the first are drawn.\n")
        with progress() as tell:
            standing.patiently(lambda: bring_seeds(standing.house, seed, seeds, tell, kind))
            numbers = standing.patiently(lambda: run_loop(standing.house, plan, tell))
        with standing.house.database.transaction() as tx:
            told = [report.round_report(tx, number) for number in numbers]
        if as_json:
            print_json(told)
        else:
            print("\n\n".join(report.as_text(one) for one in told))
        if reviewer == "person":
            talk.print(f"\n  all rounds are done; the pages stay up until Ctrl-C: {standing.address}")
            standing.stay()


def doctor(home: Home = None, as_json: Json = False) -> None:
    """Check every part of the house and say what to do about what is wrong; exit code 1 if anything is."""
    from curation.doctor import examine

    findings = examine(_settings(home, None))
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.well else 'BAD '} {finding.part:<12} {finding.told}")
            if finding.hint:
                print(f"     {'':<12} hint: {finding.hint}")
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)


def api(
    port: Annotated[int | None, typer.Option(help="Where to listen; LAYERLOOP_PORT when not given.")] = None,
) -> None:
    """Serve the JSON API and the pages."""
    import uvicorn

    from curation.api.app import create_app
    from curation.house import open_house

    settings = _settings(None, port)
    with open_house(settings) as house:
        config = uvicorn.Config(
            create_app(house),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            server_header=False,
            proxy_headers=False,  # the application believes the proxies that a setting names, and no others
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run()


def worker(
    queue: Annotated[str, typer.Option(help="'cpu' measures and sweeps, 'gpu' draws and trains.")] = "cpu",
) -> None:
    """Take jobs from one queue until stopped."""
    from curation.house import database_address, open_house
    from curation.worker import run_worker

    if queue not in {"cpu", "gpu"}:
        raise typer.BadParameter("'cpu' or 'gpu'", param_hint="--queue")
    settings = _settings(None, None)
    with open_house(settings) as house:
        run_worker(house, database_address(settings), queue)


@contextlib.contextmanager
def _desk(settings: Settings) -> Iterator[Settings]:
    """The settings with a Label Studio of the home's own in them, which runs as long as the block lasts."""
    from pydantic import SecretStr

    from curation.label_studio_server import CACHE, OWNER, label_studio

    talk.print(f"  Label Studio: its environment is kept in {CACHE}; to make it takes minutes and 1 GB")
    with label_studio(CACHE, settings.path(".") / "label-studio") as server:
        talk.print(f"\n  Label Studio  [bold]{server.address}[/]  as {OWNER}, password {server.password}")
        there = {"desk": f"label-studio+{server.address}", "desk_token": SecretStr(server.token)}
        yield settings.model_copy(update=there)


def _settings(home: Path | None, port: int | None) -> Settings:
    from curation.settings import Settings

    given: dict[str, object] = {}
    if home is not None:
        given["home"] = home
    if port is not None:
        given["port"] = port
    return Settings(**given)  # type: ignore[arg-type]  # each is checked by pydantic
