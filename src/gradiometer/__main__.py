"""``python -m gradiometer``."""

from gradiometer.cli import main

if __name__ == "__main__":
    main()
