"""`polyvid plan`: what the paper's run takes, or one of another size."""

from typing import Annotated

import typer

from polyvid.train.planning.stages import Estimate, Quantity, changed, load_quantities, plan

PREFIXES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
WIDTH = 22


def plan_command(
    gpus: Annotated[int, typer.Option(min=0, help="GPUs for extraction, training and embedding; 0: CPU cores.")] = 8,
    cores: Annotated[int, typer.Option(min=1, help="CPU cores: decode, build faiss; all without GPUs.")] = 16,
    price: Annotated[float | None, typer.Option(min=0, help="Of a GPU (or core) for an hour, in any currency.")] = None,
    storage_price: Annotated[float | None, typer.Option(min=0, help="Of a terabyte of object storage a month.")] = None,
    rate: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="A rate that you measured. Repeatable.")
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="Another size, such as videos=10000. Repeatable.")
    ] = None,
) -> None:
    """Say what the paper's run takes: hours, disk, memory and price of each stage, with the formula of each number.

    Rates come from measurements, whose place is printed with them. What needs a rate that nobody has measured is left
    open.
    """
    quantities = changed(load_quantities("gpu" if gpus else "cpu"), [*(rate or []), *(size or [])])
    machine = {"devices": gpus or cores, "cores": cores, "price": price, "storage_price": storage_price}
    stages = plan(quantities, machine)
    for stage, estimates in stages.items():
        typer.echo(stage)
        for estimate in estimates:
            typer.echo(f"  {estimate.line.name:{WIDTH}} {amount(estimate):>18}   {estimate.line.formula}")
        typer.echo()
    typer.echo("computed from")
    typer.echo(f"  {'devices':{WIDTH}} {gpus or cores:>18,}   " + ("GPUs" if gpus else "CPU cores"))
    typer.echo(f"  {'cores':{WIDTH}} {cores:>18,}   CPU cores")
    for name, quantity in quantities.items():
        about = "; ".join(filter(None, (quantity.unit, quantity.source)))
        typer.echo(f"  {name:{WIDTH}} {number(quantity):>18}   {about}")
    open_rates = [name for name, quantity in quantities.items() if quantity.value is None]
    if open_rates:
        options = " ".join(f"--rate {name}=…" for name in open_rates)
        typer.echo(f"\nNobody has measured {', '.join(open_rates)} on such a device yet. Give your own: {options}")


def number(quantity: Quantity) -> str:
    return "not measured" if quantity.value is None else f"{quantity.value:,.10g}"


def amount(estimate: Estimate) -> str:
    """A value in readable units: `989 GB`, `134,215 h`.

    >>> from polyvid.train.planning.stages import Line
    >>> amount(Estimate(Line("disk", "", "bytes"), 989e9)), amount(Estimate(Line("time", "", "h"), 0.05))
    ('989 GB', '3 min')
    """
    value, unit = estimate.value, estimate.line.unit
    if value is None:
        prices = [name for name in estimate.missing if name.endswith("price")]
        return f"no --{prices[0].replace('_', '-')}" if prices == list(estimate.missing) else "not measured"
    if unit == "bytes":
        factor, prefix = next((pair for pair in PREFIXES if value >= pair[0]), (1.0, "bytes"))
        return f"{value / factor:.3g} {prefix}" if value / factor < 1000 else f"{value / factor:,.0f} {prefix}"
    if unit == "h" and value < 1:
        return f"{60 * value:.2g} min"
    if unit == "h":
        return f"{value:,.0f} h" if value >= 100 else f"{value:.3g} h"
    return f"{value:,.0f}" if unit in ("steps", "cells") else f"{value:,.2f}"
