"""``torchrun ... -m vtrain_plugin --out DIR [options] SCRIPT.py ARGS``"""

from vtrain_plugin.launcher import main

if __name__ == "__main__":
    main()
