# The one image of the docker environment: the control plane runs it, and so does every node (docs/decisions/0096).
# Name the base by its digest where you can: docker build --build-arg BASE_IMAGE=debian:12-slim@sha256:… (decision 138).
ARG BASE_IMAGE=debian:12-slim

# What runs. Postgres compiles no queries here, so its compiler (157 MB) goes.
FROM ${BASE_IMAGE} AS programs
RUN apt-get -q update \
    && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install \
        ca-certificates iptables libfaketime make openjdk-17-jre-headless openssh-client openssh-server \
        postgresql procps python3.11 rsyslog rsyslog-gnutls util-linux \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/lib/postgresql/*/lib/llvmjit.so \
        /usr/lib/postgresql/*/lib/bitcode /usr/lib/*/libLLVM-* /usr/lib/*/libz3.so* \
    && mkdir -p /run/sshd
WORKDIR /opt/kintsugi

# The Python environment: what runs, without pip, uv, their caches and the packages' own tests.
FROM programs AS python
RUN apt-get -q update \
    && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install maven python3.11-venv
COPY requirements.txt requirements-uv.txt pyproject.toml ./
COPY bin/bootstrap bin/terraform-shim bin/
RUN mkdir plugins && touch README.md && bin/bootstrap --programs --runtime \
    && .venv/bin/python -m pip --quiet uninstall --yes uv pip \
    && cd .venv/lib/python3.11/site-packages \
    && find pandas pyarrow matplotlib -type d -name tests -prune -exec rm -r {} +

# The jars, the JVMs' class archives and Terraform's provider are made by the project's own code.
FROM python AS artifacts
COPY . .
RUN bin/docker-provider /usr/local/share/terraform/plugins
RUN bin/bootstrap --runtime

# What changes seldom goes first.
FROM programs
COPY --from=python /opt/kintsugi/.venv .venv
COPY --from=artifacts /var/cache/kintsugi /var/cache/kintsugi
COPY --from=artifacts /usr/local/share/terraform /usr/local/share/terraform
COPY . .
ENV PATH=/opt/kintsugi/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1
CMD ["kintsugi", "up", "--stay"]
