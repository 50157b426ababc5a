"""`python -m diptych` is the `diptych` command."""

from diptych.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
