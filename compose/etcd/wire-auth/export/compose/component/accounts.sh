account '${output.USER}' '${output.PASSWORD}' '${output.PREFIX}'
