# Check that RabbitMQ listens, which it does last, and knows its user. rabbitmq-diagnostics takes two seconds of CPU.
set -eu
login=$(printf 'devenv:${secret.password}' | base64 --wrap=0)
exec 3<> /dev/tcp/127.0.0.1/15672
printf 'GET /api/health/checks/port-listener/5672 HTTP/1.0\r\nAuthorization: Basic %s\r\n\r\n' "$login" >&3
read -r _ code _ <&3
[ "$code" = 200 ]
