"""``python -m strongbox``, the same as the console script."""

from strongbox.cli import main

main()
