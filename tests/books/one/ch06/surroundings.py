"""What a script sees of the interpreter it runs in."""

import os
import sys

print(__name__, __file__, __package__, __spec__, sorted(k for k in globals() if k.startswith("__")))
print(sys.argv, sys.path[0], os.getcwd(), sys.modules["__main__"].__dict__ is globals())
if "--fail" in sys.argv:
    raise ValueError("a mistake of the script")
if "--exit" in sys.argv:
    sys.exit(5)
