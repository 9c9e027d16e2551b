"""``python -m xenmig_np`` and the command ``xenmig-np``."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit."""
    from xenmig_np.cli.app import app  # noqa: PLC0415 - importing this module costs nothing

    app(prog_name="xenmig-np")


if __name__ == "__main__":
    main()
