"""``python -m jaxcomp inspect FILE``: what was done to a file's network, and what each tensor of it costs."""

import argparse
import sys

from jaxcomp.core.errors import JaxcompError
from jaxcomp.pack import inspect


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxcomp", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("inspect", help="what a .jcz file holds, one row a tensor")
    one.add_argument("file")
    one.add_argument("--max-bytes", type=int, help="the most bytes that its arrays may take in memory")
    one.add_argument("--measured", action="store_true", help="decode it, and tell values, entropy and code length")
    args = parser.parse_args(argv)
    try:
        found = inspect(args.file, max_bytes=args.max_bytes, measured=args.measured)
    except (JaxcompError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(found)
    for key, value in found.metadata.items():
        print(f"{key}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
