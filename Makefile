# make demo   installs what it needs, builds, and runs the main job on a software TPM
# make test   installs what it needs, builds, and passes all tests
# The rest is for those who work on Strongroom; CONTRIBUTING.md says when.

.PHONY: demo test test-all suites sanitize bench lint msrv deny man setup machine s3-server release clean

# The tests of real PKCS#11 clients; they run on a token without PINs, and on one with.
CLIENTS = --test clients_opensc --test clients_openssl --test clients_nginx --test clients_ssh \
	--test clients_gnutls --test clients_nss --test clients_java --test clients_systemd \
	--test clients_p11_kit

demo: release
	scripts/demo.sh

test: setup machine s3-server
	cargo build --locked --workspace --bins --lib
	cargo test --locked --workspace
	STRONGROOM_TEST_PIN=1 cargo test --locked -p strongroom-tests $(CLIENTS)
	STRONGROOM_BIN=target/debug scripts/demo.sh --quiet

# Everything, the long tests included, and what keeps the house in order.
test-all: test suites sanitize lint msrv deny
	STRONGROOM_TEST_KILLS=100 cargo test --locked --workspace -- --include-ignored

# Published PKCS#11 suites on our token, beside SoftHSM2; see tests/suites.
suites: setup
	cargo build --locked --workspace --bins --lib
	tests/suites/python-pkcs11
	tests/suites/cryptoki

# AddressSanitizer over the module's tests of the C interface.
sanitize: setup
	scripts/sanitize.sh

bench: release machine
	cargo bench --locked -p strongroom-tests --bench unseal --bench signing --bench zfs --bench launcher --bench token

lint: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

# The oldest compiler that Strongroom promises to build with: Debian 13's own.
msrv: setup
	scripts/msrv.sh

# Licences, advisories, sources and doubled versions of dependencies.
deny:
	scripts/deny.sh

release: setup
	cargo build --locked --release --workspace --bins --lib

# Manual pages, from the same source as --help.
man: release
	mkdir -p target/man
	target/release/strongroom man target/man
	target/release/zfs-keyprovider man target/man
	target/release/credential-provider man target/man

setup:
	@scripts/setup.sh

# What the test machine boots; see tests/vm.
machine: setup
	@tests/vm/build >/dev/null

# What the tests of cloud sync and backup copy to; see tests/s3.
s3-server: setup
	@tests/s3/build >/dev/null

clean:
	cargo clean
