"""`python -m rollhouse`."""

from .cli.main import main

main()
