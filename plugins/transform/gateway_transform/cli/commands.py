"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from gateway_core.cli import Remote, remote_options
from gateway_core.errors import ConfigError

if TYPE_CHECKING:
    from gateway_transform.client.steps import Step

_STATES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")
_RUN_EPILOG = """\b
Exit codes:
  0    the job succeeded and its files are there
  1    the job failed, or a file was not overwritten, or the gateway could not be reached
  2    wrong usage, or a step that the gateway refuses
  130  stopped by Ctrl-C; the job is cancelled
"""


class _Given(TypedDict):
    output: Path
    hook: str | None
    strict: bool
    keep_log: bool
    force: bool


def _steps(_ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[Step, ...]:
    from gateway_transform.client.steps import parse_step

    try:
        return tuple(parse_step(text) for text in value)
    except ConfigError as exc:
        raise click.BadParameter(exc.detail) from exc


@click.group()
def transform() -> None:
    """Document jobs: run one, and look after those there are."""


@transform.command("run", epilog=_RUN_EPILOG)
@click.argument("files", nargs=-1, required=True, metavar="FILES...", type=click.Path(path_type=Path))
@click.option(
    "-t",
    "--transformation",
    "steps",
    metavar="NAME[:OPTION=VALUE]...",
    multiple=True,
    required=True,
    callback=_steps,
    help=r"A step; any number of times, done in this order. A colon in a value is written `\:`.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder for what the job makes; default: the current one.",
)
@click.option("--hook", metavar="URL", help="Let the gateway call this when the job has ended.")
@click.option(
    "--strict/--no-strict", default=True, show_default=True, help="Refuse unknown steps and options before they run."
)
@click.option("--keep-log", is_flag=True, help="Put the job's out.log into DIR too.")
@click.option("--force", is_flag=True, help="Overwrite files that are there and differ.")
@remote_options
def run_job(files: tuple[Path, ...], *, steps: tuple[Step, ...], remote: Remote, **given: Unpack[_Given]) -> int:
    """Have a gateway transform files and folders, and take home what comes of it.

    What the job makes is written below DIR; what was sent and comes back unchanged is not. The paths written go to
    standard output, everything else to standard error. Ctrl-C cancels the job.
    """
    from gateway_transform.client.run import Order, carry_out

    into, hook = given["output"], given["hook"]
    flags = {"strict": given["strict"], "keep_log": given["keep_log"], "force": given["force"]}
    return carry_out(Order(_checked(remote), files, steps, into, hook, **flags))


@transform.command("list")
@click.option("--json", "as_json", is_flag=True, help="As the gateway tells it, with help and limits.")
@remote_options
def list_transformations(*, remote: Remote, as_json: bool) -> None:
    """List the transformations that a gateway offers: name, label and options."""
    from gateway_transform.client.listing import list_them

    list_them(_checked(remote), as_json=as_json)


@transform.command()
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.")
@click.option("--limit", metavar="N", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, times in Unix seconds.")
def jobs(*, state: str | None, limit: int, as_json: bool) -> None:
    """List jobs of all clients, the newest first."""
    from gateway_transform.cli.operating import show_jobs

    show_jobs(state, limit, as_json=as_json)


@transform.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, times in Unix seconds.")
def dead(*, as_json: bool) -> None:
    """List dead letters: jobs that lost their worker at every attempt."""
    from gateway_transform.cli.operating import show_dead

    show_dead(as_json=as_json)


@transform.command()
@click.argument("job_id", metavar="ID")
def retry(job_id: str) -> None:
    """Put the failed job ID into the queue again, with all its attempts."""
    from gateway_transform.cli.operating import try_again

    try_again(job_id)


@transform.command()
@click.argument("job_id", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON, times in Unix seconds.")
def hooks(job_id: str | None, *, as_json: bool) -> None:
    """Show how webhooks were delivered, the last try first: those of the job ID, or all."""
    from gateway_transform.cli.operating import show_deliveries

    show_deliveries(job_id, as_json=as_json)


@transform.command()
@click.argument("job_id", metavar="ID")
def replay(job_id: str) -> None:
    """Deliver the webhook of the job ID once more."""
    from gateway_transform.cli.operating import deliver_again

    deliver_again(job_id)


@click.command()
def worker() -> None:
    """Run jobs without serving a port, until SIGTERM; any number of them, on any machine."""
    from gateway_core.cli import work

    work()


def _checked(remote: Remote) -> Remote:
    if remote.secret is not None and not (remote.secret.isascii() and remote.secret.isprintable()):
        raise click.BadParameter("a secret is printable ASCII", param_hint="--secret")
    return remote
