# Check that the administrator gets a token. Starting Python for that would take a tenth of a second of CPU.
set -eu
domain='"domain": {"id": "default"}'
user='{"name": "admin", "password": "${secret.admin_password}", '$domain'}'
body='{"auth": {"identity": {"methods": ["password"], "password": {"user": '$user'}},
    "scope": {"project": {"name": "admin", '$domain'}}}}'
exec 3<> /dev/tcp/127.0.0.1/5000
printf 'POST /v3/auth/tokens HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' \
    "$${#body}" "$body" >&3
read -r _ code _ <&3
[ "$code" = 201 ]
