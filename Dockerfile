# The server of clinprompt on a CPU. Two stages: packages are installed in one, the other gets only what was installed.
# The folders to mount are named in compose.yaml and docs/doors.md.

FROM python:3.12-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/clinprompt
ENV PATH=/opt/clinprompt/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
# torch from its own index, which has the builds without CUDA; its version is the one in constraints.txt.
RUN pip install --no-cache-dir -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt '.[serve,fhir]'

FROM python:3.12-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent clinprompt
COPY --from=build /opt/clinprompt /opt/clinprompt
# Nothing is fetched while it runs; models other than the embedded one are mounted. /tmp is all it writes.
ENV PATH=/opt/clinprompt/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/tmp/huggingface
USER 10001
EXPOSE 8000
# Whichever of HTTPS and HTTP it speaks; the certificate is for other names than 127.0.0.1.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as h, ssl, sys\nfor c in (h.HTTPSConnection('127.0.0.1', 8000, timeout=2, context=ssl._create_unverified_context()), h.HTTPConnection('127.0.0.1', 8000, timeout=2)):\n  try:\n    c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)\n  except OSError: pass\nsys.exit(1)"]
ENTRYPOINT ["clinprompt"]
# Beyond loopback the server wants keys and TLS; compose.yaml shows the explicit opt-out for a port of this machine only.
CMD ["serve", "--tasks", "/tasks", "--host", "0.0.0.0", "--api-keys", "/keys/keys.json", "--tls-cert", "/tls/cert.pem", "--tls-key", "/tls/key.pem"]
