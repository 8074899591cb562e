# The one image of the docker environment: the control plane runs it, and so does every node (docs/decisions/0096).
FROM debian:12-slim

RUN apt-get -q update \
    && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install \
        ca-certificates libfaketime make maven openjdk-17-jre-headless openssh-client openssh-server \
        postgresql procps python3.11-venv rsyslog util-linux \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir -p /run/sshd

WORKDIR /opt/kintsugi

# What changes seldom goes first: the Python environment.
COPY requirements-dev.txt pyproject.toml ./
COPY bin/bootstrap bin/terraform-shim bin/
RUN mkdir plugins && touch README.md && bin/bootstrap --programs

# The jars and the JVMs' class archives are made by the project's own code.
COPY . .
RUN bin/docker-provider /usr/local/share/terraform/plugins
RUN bin/bootstrap
ENV PATH=/opt/kintsugi/.venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1
CMD ["kintsugi", "up", "--stay"]
