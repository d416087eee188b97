"""`python -m seektune`: the same as the `seektune` command."""

from seektune.cli import main

if __name__ == "__main__":
    main()
