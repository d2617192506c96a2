# Ichor for a CPU. BASE needs Python 3.11 or newer with venv, and glibc: python:3.11-slim-bookworm, or your own.
#   docker build -t ichor:0.1.0 .        buildah bud -t ichor:0.1.0 --build-arg BASE=registry.example.org/python:3.11 .
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# Packages from a mirror, its authority in the base image: not in the final image's environment.
ARG PIP_INDEX_URL
ARG PIP_CERT
ARG PIP_NO_CACHE_DIR=1
# s3: also what a store in an S3 bucket needs.
ARG REQUIREMENTS=serve
WORKDIR /src
COPY requirements requirements
RUN python3 -m venv /opt/ichor && /opt/ichor/bin/pip install --quiet --disable-pip-version-check -r requirements/${REQUIREMENTS}.txt
COPY . .
RUN /opt/ichor/bin/pip install --quiet --disable-pip-version-check --no-deps . \
    && /opt/ichor/bin/pip uninstall --quiet --yes pip setuptools \
    && /opt/ichor/bin/python -m compileall -q /opt/ichor/lib

FROM ${BASE}
COPY --from=build /opt/ichor /opt/ichor
ENV PATH=/opt/ichor/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The folder's owner is what an empty volume takes over.
RUN mkdir -p /var/lib/ichor && chown 10001:10001 /var/lib/ichor
WORKDIR /var/lib/ichor
USER 10001:10001
VOLUME /var/lib/ichor
EXPOSE 11112 8080
ENTRYPOINT ["ichor"]
CMD ["serve", "--data", "/var/lib/ichor"]
