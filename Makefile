# Two commands build and test everything on a machine with Python 3.11 to 3.13 and make:
#
#     make book        make test
#
# PYTHON=python3.12 make book takes another interpreter than python3.

# Activating .venv by hand is never needed: everything below calls its python by path.
PY := .venv/bin/python
PORT ?= 8000
BARE := _build/bare
VERSIONS ?= tests/fixtures/colab.txt

.DEFAULT_GOAL := help
.PHONY: help environment book test bare notebooks assignments grade slides bench zip pdf serve clean

help:  ## print this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

# Not a file target: a checkout changes the times of files that did not change, so the script compares contents.
environment:  ## create .venv, or bring it in step with requirements.txt
	@$${PYTHON:-python3} tools/environment.py

# The ledger first: it runs the claims whose code changed, in as many processes as there are cores,
# and says which; page, notebook and tests read what it keeps. What fails there fails in the tests.
book: environment  ## run the claims and notebooks that changed, build _build/html
	@-OMP_NUM_THREADS=1 $(PY) -m descent ledger --brief
	@$(PY) tools/build.py

# One thread for each of the two workers, lest they fight for the cores; a notebook's cells must stay on one worker.
test: book  ## everything that must hold: library, claims, notebooks, pages in a browser
	@$(PY) tools/environment.py browser
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile tests notebooks

# As in Colab: its versions, the library without the rest of the project, and another folder.
bare:  ## run the notebooks with the library alone, in VERSIONS=tests/fixtures/colab.txt, or floors.txt (minutes)
	@rm -rf $(BARE) && mkdir -p $(BARE) && cp -r notebooks $(BARE)/notebooks
	@$${PYTHON:-python3} -m venv $(BARE)/venv
	@$(BARE)/venv/bin/python -m pip install -q -c $(VERSIONS) . ipykernel nbval
	@cd $(BARE)/notebooks && OMP_NUM_THREADS=1 ../venv/bin/python -m pytest -q -c /dev/null \
	  --rootdir . -p no:cacheprovider --nbval-lax --nbval-current-env .

notebooks: environment  ## regenerate notebooks/ from book/, assignments/student/ from assignments/
	@$(PY) tools/notebooks
	@$(PY) tools/course publish

# COURSE holds a secret, and marks: so it has no default, and none below _build, which `make clean` empties.
assignments: environment  ## write the problem sets of a course into COURSE=folder
	@$(PY) tools/course release "$(or $(COURSE),$(error say where: make assignments COURSE=../my-course))"

grade: environment  ## grade a folder of notebooks: COURSE=folder SET=foundations SUBMISSIONS=folder
	@$(PY) tools/course grade "$(or $(COURSE),$(error say COURSE=folder))" \
	  "$(or $(SET),$(error say SET=foundations))" "$(or $(SUBMISSIONS),$(error say SUBMISSIONS=folder))"

slides: book  ## write slides of each part into _build/slides, from its chapters
	@$(PY) tools/course slides

bench: environment  ## time the engine against other ways, write src/descent/bench.json (minutes)
	@test -d _build/bench/jax || $(PY) -m pip install -q --target _build/bench -c requirements.txt -r bench/requirements.txt
	@PYTHONPATH=_build/bench $(PY) bench/bench.py

zip: book  ## pack the pages into _build/descent.zip, to be opened without a server
	@$(PY) tools/offline.py zip

pdf: book  ## print each chapter and the whole book into _build/pdf (minutes)
	@$(PY) tools/environment.py browser
	@$(PY) tools/offline.py pdf

serve: book  ## look at the book at http://localhost:8000 (PORT=... for another)
	@$(PY) -m http.server $(PORT) --bind localhost --directory _build/html

clean:  ## remove the built book, keep .venv
	rm -rf _build
