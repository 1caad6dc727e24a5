"""`python -m parla`: what Parla finds on this machine. With ``--measure-links``: measure the copies between its memories first."""

from __future__ import annotations

import argparse
import sys

from parla import _native
from parla.errors import ParlaError


def main() -> int:
    """Print the devices and the links; the status for the shell."""
    parser = argparse.ArgumentParser(prog="python -m parla", description="Shows the devices and links that Parla finds.")
    parser.add_argument(
        "--measure-links",
        action="store_true",
        help="measure the links to and between real GPUs, which takes a second or so, and keep the results (in PARLA_LINK_FILE, or in "
        "your cache directory) for all runs to come; nothing else should use the GPUs meanwhile",
    )
    arguments = parser.parse_args()
    kept = None
    try:
        if arguments.measure_links:
            kept = _native.measure_links()
        machine = _native.machine()
    except (ParlaError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for device in machine["devices"]:
        model = "" if device["model"] == device["name"] else f", {device['model']}"
        print(f"{device['name']}: {_bytes(device['capacity'])}, {device['workers']} at once{model}")
    if reason := machine["unavailable"].get("gpu"):
        print(f"no GPU: {reason}")
    names = [memory["name"] for memory in machine["memories"]]
    if len(names) > 1:
        simulated = any(device["architecture"] == "gpu" and device["host_access"] for device in machine["devices"])
        print(f"links ({'simulated' if simulated else 'measured' if machine['links_are_measured'] else 'assumed'}):")
        for start, row in zip(names, machine["links"], strict=True):
            for end, link in zip(names, row, strict=True):
                way = "" if link["direct"] else ", through the host"
                print(f"  {start} to {end}: {link['latency_ns'] / 1e3:.1f} us, {link['bytes_per_second'] / 1e9:.1f} GB/s{way}")
    if kept is not None:
        print(f"kept in {kept}")
    return 0


def _bytes(n: int) -> str:
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
