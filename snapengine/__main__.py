"""`python -m snapengine` is the command `snapengine`."""

from snapengine.cli.main import main

if __name__ == "__main__":
    main()
