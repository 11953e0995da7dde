# One container of a mesh. Wheels only: nothing is compiled, the second stage has no pip cache and no build tools.
FROM python:3.11-slim AS build
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

FROM python:3.11-slim
RUN groupadd --gid 10001 discloud \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin discloud \
 && install -d -o discloud -g discloud -m 0700 /data
COPY --from=build /opt/discloud /opt/discloud
ENV PATH=/opt/discloud/bin:$PATH \
    DISCLOUD_HOME=/data \
    DISCLOUD_DATA=/data \
    DISCLOUD_LISTEN=0.0.0.0
USER 10001:10001
VOLUME /data
EXPOSE 7070 7072
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('DISCLOUD_PORT', '7070') + '/livez', timeout=2)"]
ENTRYPOINT ["discloud"]
CMD ["node"]
