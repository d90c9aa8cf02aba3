"`python -m audiotag`: the command line, also if the scripts folder is not on PATH"
from audiotag.cli import main

if __name__ == "__main__": main()
