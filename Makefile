# `make demo` and `make test` need Python 3.11, pip, make and a C compiler; they install the rest into .venv, once.
VENV  := .venv
RUN   := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo demo-real test test-system fuzz test-zoo lint bench view docs clean

setup: $(STAMP)

$(STAMP): constraints.txt pyproject.toml setup.sh
	bash setup.sh
	touch $(STAMP)

demo: $(STAMP)
	$(RUN)/rollhouse demo $(DEMO)

# Eight steps of SFT and two of GRPO with SmolLM2-135M-Instruct from a package index; examples/real_model.md.
demo-real: $(STAMP)
	$(RUN)/python benchmarks/real_model.py --steps 2 --val 12 $(DEMO)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m "not system" -n 2 --dist loadfile $(TEST)

test-system: $(STAMP)
	$(RUN)/python -m pytest -m system -n 2 --dist loadfile $(TEST)

# Every architecture of docs/models.md with every check, which writes its table.
test-zoo: $(STAMP)
	ROLLHOUSE_WRITE_ZOO=1 $(RUN)/python -m pytest tests/zoo $(TEST)

# 100,000 cases of mutated input in less than ten minutes; SEED=N makes others.
fuzz: $(STAMP)
	$(RUN)/python tests/fuzz.py --cases 100000 --seed $(or $(SEED),1)

lint: $(STAMP)
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/pyright

bench: $(STAMP)
	$(RUN)/python benchmarks/learning.py
	$(RUN)/python benchmarks/store.py --out docs/benchmarks-store.md
	$(RUN)/python benchmarks/transform.py --out docs/benchmarks-transform.md
	$(RUN)/python benchmarks/collect.py --engine --out docs/benchmarks-collect.md
	$(RUN)/python benchmarks/gateway.py --out docs/benchmarks-gateway.md

# The viewer's pages, from TypeScript; only needed after a change in view/app (Node 20, npm). The result is committed.
view:
	cd view/app && npm ci --ignore-scripts --no-audit --no-fund && npm run build

# The documentation site in site/; a warning ends it.
docs: $(STAMP)
	$(RUN)/python docs/build.py --out site

clean:
	rm -rf $(VENV) build dist site *.egg-info
