/* Prints the addresses of a name, as the C library that it is linked with finds them: resolve 4|6 NAME */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

int main(int count, char **words)
{
	struct addrinfo hints, *found, *one;
	char text[INET6_ADDRSTRLEN];
	if (count != 3)
		return 2;
	memset(&hints, 0, sizeof hints);
	hints.ai_family = words[1][0] == '6' ? AF_INET6 : AF_INET;
	hints.ai_socktype = SOCK_STREAM;
	if (getaddrinfo(words[2], NULL, &hints, &found) != 0)
		return 0;
	for (one = found; one; one = one->ai_next) {
		const void *address = one->ai_family == AF_INET6
			? (const void *)&((struct sockaddr_in6 *)one->ai_addr)->sin6_addr
			: (const void *)&((struct sockaddr_in *)one->ai_addr)->sin_addr;
		puts(inet_ntop(one->ai_family, address, text, sizeof text));
	}
	freeaddrinfo(found);
	return 0;
}
