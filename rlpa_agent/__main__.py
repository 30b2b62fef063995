"""`python -m rlpa_agent`: the command `rlpa-agent`."""

from rlpa_agent.cli import main

if __name__ == "__main__":
    main()
