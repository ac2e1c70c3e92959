// Read the newest prediction of a running clcr-stream in C++, with cppzmq.
//
//     sudo apt-get install g++ cppzmq-dev
//     g++ -std=c++17 -O2 -o subscribe examples/subscribe.cpp -lzmq
//     ./subscribe ENDPOINT [STREAM [MESSAGES]]
//
// The payload is JSON: give it to the JSON library of your program. Here only the label and the session's number are taken
// out of it, by hand, so that this file needs nothing else.

#include <zmq.hpp>

#include <cstdlib>
#include <iostream>
#include <optional>
#include <string>

// The text or number after "name": in a flat part of a JSON object; nothing for null.
static std::optional<std::string> field(const std::string& json, const std::string& name) {
    const auto at = json.find("\"" + name + "\":");
    if (at == std::string::npos) return std::nullopt;
    const auto begin = at + name.size() + 3;
    if (json.compare(begin, 4, "null") == 0) return std::nullopt;
    if (json[begin] == '"') return json.substr(begin + 1, json.find('"', begin + 1) - begin - 1);
    return json.substr(begin, json.find_first_of(",}", begin) - begin);
}

int main(int count, char** arguments) {
    if (count < 2) {
        std::cerr << "usage: subscribe ENDPOINT [STREAM [MESSAGES]]\n";
        return 2;
    }
    const std::string stream = count > 2 ? arguments[2] : "default";
    long left = count > 3 ? std::atol(arguments[3]) : -1;
    try {
        zmq::context_t context;
        zmq::socket_t subscriber(context, zmq::socket_type::sub);
        subscriber.set(zmq::sockopt::conflate, true);  // before connect: a slow program then reads the newest
        subscriber.set(zmq::sockopt::linger, 0);
        subscriber.set(zmq::sockopt::subscribe, "clcr/" + stream + "/prediction ");  // with the space
        subscriber.connect(arguments[1]);
        while (left != 0) {
            zmq::message_t message;
            if (!subscriber.recv(message)) continue;
            const std::string frame = message.to_string();
            const auto space = frame.find(' ');
            if (space == std::string::npos) continue;
            const std::string payload = frame.substr(space + 1);
            std::cout << field(payload, "seq").value_or("?") << ' ' << field(payload, "label").value_or("no answer") << ' '
                      << field(payload, "confidence").value_or("-") << std::endl;
            if (left > 0) --left;
        }
    } catch (const zmq::error_t& error) {
        std::cerr << "subscribe: " << error.what() << '\n';
        return 6;
    }
}
