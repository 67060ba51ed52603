"""``python -m vtrain``: the same as the command ``vtrain``."""

from vtrain_sim.commands.vtrain import main

if __name__ == "__main__":
    main()
