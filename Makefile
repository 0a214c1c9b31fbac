# make test is all that a change must pass before it is looked at, and make lint
# what CI asks beside. Works with GNU make 3.81 (macOS) and newer.

# Tests start servers of their own. A developer's is none of their business.
unexport $(filter CACHES_DSN%,$(.VARIABLES))

# Without redis-server, tests fail instead of being skipped.
export CACHES_TEST_REDIS = require

FUZZTIME ?= 30s
COVERAGE ?= 90

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOCYCLO = github.com/fzipp/gocyclo/cmd/gocyclo@v0.6.0
MISSPELL = github.com/golangci/misspell/cmd/misspell@v0.7.0
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: help test lint fuzz cover soak bench faults flakes needs

help:
	@echo "make test    vet, and all tests with the race detector; installs redis-server if it may"
	@echo "make lint    gofmt, vet, staticcheck, gocyclo, misspell, govulncheck"
	@echo "make cover   coverage of the root and of each driver, at least $(COVERAGE) % (COVERAGE=n)"
	@echo "make fuzz    every fuzz target for $(FUZZTIME) (FUZZTIME=d)"
	@echo "make soak    all of it for hours: long plans, many rounds"
	@echo "make faults  servers and networks that fail, at length; writes RELIABILITY.md (its own module, faults/)"
	@echo "make flakes  all tests FLAKES=20 times beside spinning processes; PKG=./driver RUN=TestX narrow it"
	@echo "make bench   caches beside hand-written code (its own module, bench/)"

needs:
	@.ci/needs

# Vet runs on the packages as they are built for the race detector: by itself, it
# would have all of them built once more.
test: needs
	go test -race -vet=all -timeout 10m ./...
	go -C faults test -race -vet=all -timeout 10m ./...

lint:
	@echo gofmt -l .; files=$$(gofmt -l .); test -z "$$files" || { echo "not formatted: $$files"; exit 1; }
	go vet ./...
	go -C bench vet ./...
	go run $(STATICCHECK) ./...
	go run $(GOCYCLO) -over 15 .
	go run $(MISSPELL) -error .
	@$(call govulncheck)

# Only that the database cannot be fetched is let pass, and said: a machine
# without the network can still lint. Whatever else fails, fails.
define govulncheck
echo "go run $(GOVULNCHECK) ./..."; \
if out=$$(go run $(GOVULNCHECK) ./... 2>&1); then echo "$$out"; \
elif echo "$$out" | grep -q '^govulncheck: fetching vulnerabilities: .*vuln\.go\.dev.*: dial tcp'; then \
	echo "$$out" | grep '^govulncheck:'; \
	echo "NOT CHECKED for known vulnerabilities: vuln.go.dev cannot be reached"; \
else echo "$$out"; exit 1; fi
endef

# The packages that are measured, by the tests of all.
COVERED = . ./driver/... ./internal/...

cover: needs
	go test -short -timeout 10m -coverprofile=coverage.out -coverpkg="$$(go list $(COVERED) | paste -sd, -)" $(COVERED) ./testutil/...
	@failed=0; for package in $$(go list $(COVERED)); do \
		(head -1 coverage.out; grep "^$$package/[^/]*:" coverage.out) >coverage.package; \
		percent=$$(go tool cover -func=coverage.package | sed -n 's/^total:.*[^0-9.]\([0-9.]*\)%$$/\1/p'); \
		echo "$$percent% $$package"; \
		test $${percent%.*} -ge $(COVERAGE) || failed=1; \
	done; rm coverage.package; \
	test $$failed = 0 || { echo "below $(COVERAGE) %"; exit 1; }

fuzz:
	@set -e; for package in $$(go list ./...); do \
		targets=$$(go test -list '^Fuzz' $$package); \
		for target in $$(echo "$$targets" | grep '^Fuzz' || true); do \
			echo "go test -run '^$$' -fuzz '^$$target$$' -fuzztime $(FUZZTIME) $$package"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

soak: needs
	CACHES_TEST_PLAN=5000000 CACHES_TEST_FULL=1 CACHES_TEST_FAILOVERS=10 go test -count=1 -timeout 4h ./...
	go test -race -count=20 -timeout 4h ./...
	$(MAKE) fuzz FUZZTIME=10m

bench:
	go -C bench run .

faults: needs
	CACHES_FAULTS=full CACHES_FAULTS_OUT=$(CURDIR)/RELIABILITY.md go -C faults test -count=1 -timeout 2h -v .

flakes: needs
	@FLAKES="$(FLAKES)" PKG="$(PKG)" RUN="$(RUN)" .ci/flakes
