"""One cycle of what this project replaces: `ps aux`, one `lsof -p` for each process, `psad -S` where there is one, rows
split at white space, all of it as one JSON text.

python3 prototype_cycle.py     prints the bytes of JSON
"""
import json
import shutil
import subprocess


def lines(*command):
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    return output.decode("utf-8", "replace").splitlines()


processes = [line.split(None, 10) for line in lines("ps", "aux")[1:]]
files = [line.split() for process in processes for line in lines("lsof", "-p", process[1])[1:]]
psad = lines("psad", "-S") if shutil.which("psad") else []
print(len(json.dumps({"process_data": processes, "lsof_data": files, "psad_data": psad})))
