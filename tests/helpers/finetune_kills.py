"""Kill a stage at chosen moments: `python finetune_kills.py MODEL FOLDER` prints exit statuses as JSON.

One process imports the libraries, and a copy of it is killed at each moment.
"""

import json
import os
import signal
import sys
from pathlib import Path

from finetune_stages import train

from ropewalk.finetune import checkpoints

# A function of `checkpoints`, and at the start of which of its calls.
MOMENTS = {
    "in the second checkpoint's files": ("write_manifest", 2),
    "before it has its name": ("publish", 2),
    "before the first one is removed": ("remove_folder", 1),
    "while the tuned model is written": ("publish", 4),
}
CHANGES = {"num_steps": 3, "save_every": 1, "keep_checkpoints": 1}


def killing(function, call):
    original, calls = getattr(checkpoints, function), []

    def stand_in(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(checkpoints, function, stand_in)


def main(model, folder):
    ended = {}
    for moment, (function, call) in MOMENTS.items():
        child = os.fork()
        if child == 0:
            killing(function, call)
            train(model, folder / moment, **CHANGES)
            os._exit(0)
        ended[moment] = os.waitpid(child, 0)[1]
    print(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
