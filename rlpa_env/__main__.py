"""`python -m rlpa_env`: the command `rlpa-env`."""

from rlpa_env.cli import main

if __name__ == "__main__":
    main()
