# One container of a mesh. Wheels only: nothing is compiled, the last stage has no pip cache and no build tools.
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY deploy/requirements.txt deploy/requirements-build.txt deploy/
RUN python -m venv /opt/discloud \
 && /opt/discloud/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r deploy/requirements.txt \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r deploy/requirements-build.txt
COPY pyproject.toml README.md ./
COPY discloud/ discloud/
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /dist . \
 && /opt/discloud/bin/pip install --no-cache-dir --no-deps --no-index /dist/*.whl

FROM python:3.11.14-slim-bookworm AS node
LABEL org.opencontainers.image.title="discloud" \
      org.opencontainers.image.description="A mesh of equal containers that keep files together" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 discloud \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin discloud \
 && install -d -o discloud -g discloud -m 0700 /data
COPY --from=build /opt/discloud /opt/discloud
COPY deploy/healthcheck.py /opt/discloud/
ENV PATH=/opt/discloud/bin:$PATH \
    DISCLOUD_HOME=/data \
    DISCLOUD_DATA=/data \
    DISCLOUD_LISTEN=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
# the HTTP API, S3, other nodes
EXPOSE 7070 7071 7072
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "/opt/discloud/healthcheck.py"]
ENTRYPOINT ["discloud"]
CMD ["node"]
