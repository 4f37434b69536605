"""`python -m polyvid`, and what launchers of several processes run: `accelerate launch -m polyvid extract ...`."""

from polyvid.train.cli import main

if __name__ == "__main__":
    main()
